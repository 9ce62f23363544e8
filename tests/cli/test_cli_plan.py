import matplotlib.image
import pytest

from masam.cli import main


def test_a_preview_is_drawn(masam, dataset, tmp_path):
    picture, config = tmp_path / "preview.png", tmp_path / "config.yaml"
    config.write_text("augmentation: paper\nseed: 3\n")
    words = ("plan", dataset, "--out", tmp_path / "plan.yaml", "--preview", picture, "--quiet")
    said = masam(*words)
    assert (said.code, said.err) == (0, "")
    assert said.out.splitlines()[1].endswith("preview.png: training samples")
    first = picture.read_bytes()
    height, width, _ = matplotlib.image.imread(picture).shape
    assert min(height, width) > 1000
    assert masam(*words).code == 0
    assert picture.read_bytes() == first
    assert masam(*words, "--preview-config", config).code == 0
    assert picture.read_bytes() != first


def test_a_preview_that_cannot_be_written_is_refused_before_the_work(masam, dataset, tmp_path):
    result = masam("plan", dataset, "--out", tmp_path / "plan.yaml", "--preview", tmp_path)
    assert result.code == 5
    assert "expected a file to write, got a folder" in result.error
    assert not (tmp_path / "plan.yaml").exists()


def test_a_configuration_without_a_preview_is_refused(masam, dataset, tmp_path):
    config = tmp_path / "config.yaml"
    config.write_text("augmentation: paper\n")
    result = masam("plan", dataset, "--out", tmp_path / "plan.yaml", "--preview-config", config)
    assert result.code == 2
    assert "--preview-config: expected --preview as well" in result.error


@pytest.mark.parametrize("text", ["augmentation: papr\n", "augment: false\n"])
def test_a_wrong_configuration_is_refused(dataset, tmp_path, text, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(text)
    words = ["plan", str(dataset), "--out", str(tmp_path / "plan.yaml"), "--preview", str(tmp_path / "p.png")]
    assert main([*words, "--preview-config", str(config)]) != 0
    assert "augment" in capsys.readouterr().err
    assert not (tmp_path / "plan.yaml").exists()
