"""HTML report: numbers, escaping of names, no external resources."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import matplotlib.image
import pytest

from masam.errors import InputError
from masam.evaluation import CaseScore, Evaluation, VideoScore
from masam.labels import LabelScheme
from masam.report import write_report
from masam.report.figures import training_curves

NAN = float("nan")
METRICS = {"step": [1.0, 2.0], "loss": [1.0, 0.5]}
HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(2)">\'&'
SCHEME = LabelScheme.from_mapping({"background": 0, "liver": 1, HOSTILE: 2})


def evaluation(name: str = HOSTILE) -> Evaluation:
    def score(case: str, label: str, dice: float, hd95: float) -> CaseScore:
        return CaseScore(case, label, dice, dice, hd95, hd95, hd95, dice, 10.0, 9.0)

    return Evaluation(
        (
            score("case_a", "liver", 0.95, 1.25), score("case_a", name, NAN, NAN),
            score("case_b", "liver", 0.85, 2.25), score("case_b", name, 0.5, 7.125),
            score(HOSTILE, "liver", 0.0, NAN), score(HOSTILE, name, 0.4, 9.0),
        ),
        nsd_tolerance_mm=2.0,
        missing=(HOSTILE,),
    )  # fmt: skip


TAGS = {
    "html",
    "head",
    "meta",
    "title",
    "style",
    "body",
    "main",
    "header",
    "h1",
    "h2",
    "p",
    "div",
    "b",
    "span",
    "i",
    "table",
    "thead",
    "tbody",
    "tr",
    "th",
    "td",
    "br",
    "small",
    "svg",
    "rect",
    "path",
    "circle",
    "dl",
    "dt",
    "dd",
    "figure",
    "figcaption",
    "img",
    "ul",
    "li",
    "footer",
}


class Reader(HTMLParser):
    """Collect tags, attributes and text, and check that tags close."""

    VOID = ("meta", "img", "br")

    def __init__(self):
        super().__init__()
        self.tags, self.text, self.open = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture
def report(tmp_path):
    png = training_curves(METRICS)
    path = tmp_path / "report.html"
    write_report(
        path,
        title=HOSTILE,
        evaluation=evaluation(),
        overlays=[(HOSTILE, png, HOSTILE), ("case_b", png, "plain")],
        scheme=SCHEME,
        curves_png=png,
        manifest={"kind": HOSTILE, "git": None, "libraries": {HOSTILE: "1"}, "command": ["masam", HOSTILE]},
        notes=[HOSTILE],
    )
    html = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(html)
    assert reader.open == []
    return html, reader, png


def test_hostile_names_are_text(report):
    html, reader, _ = report
    assert "<script" not in html
    assert {tag for tag, _ in reader.tags} <= TAGS
    assert not any(name.startswith("on") or name == "style" for _, attributes in reader.tags for name in attributes)
    assert HOSTILE in "".join(reader.text)
    assert sum(HOSTILE in text for text in reader.text) >= 8  # title twice, class, cases, caption, manifest, note


def test_policy_allows_the_style_and_nothing_else(report):
    html, reader, _ = report
    (policy,) = (a["content"] for t, a in reader.tags if t == "meta" and "http-equiv" in a)
    style = re.search(r"<style>(.*?)</style>", html, re.DOTALL)[1]
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert (
        policy == f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )
    assert not re.search(r"https?://|url\(|@import", html)


def test_numbers_are_those_of_the_evaluation(report):
    _, reader, _ = report
    text = " ".join(" ".join(reader.text).split())
    # Liver (0.95 + 0.85 + 0) / 3 = 0.6, the other (0.5 + 0.4) / 2 = 0.45; over cases (0.95 + 0.675 + 0.2) / 3.
    for number in (
        "0.525",
        "0.600",
        "0.450",
        "0.608",
        "1.75",
        "8.06",
        "1 not scored",
        "2 cases",
        "1 of 3 cases had no prediction",
    ):
        assert number in text
    ranking = text[text.index("Lowest-scoring cases") :]
    assert ranking.index("0.200") < ranking.index("0.675") < ranking.index("0.950")
    assert "liver 0.000" in text


def test_images_decode_and_are_the_given_ones(report):
    _, reader, png = report
    images = [attributes for tag, attributes in reader.tags if tag == "img"]
    assert len(images) == 3
    for image in images:
        data = base64.b64decode(image["src"].removeprefix("data:image/png;base64,"), validate=True)
        assert data == png
        height, width = matplotlib.image.imread(io.BytesIO(data)).shape[:2]
        assert (int(image["width"]), int(image["height"])) == (width, height)
        assert image["alt"]


def test_a_page_of_videos_has_no_millimetres(tmp_path):
    scores = (
        CaseScore("seq_1", "liver", 0.5, 0.25, *[NAN] * 6), CaseScore("seq_1", HOSTILE, 0.75, 0.5, *[NAN] * 6),
        CaseScore("seq_2", "liver", 0.25, 0.125, *[NAN] * 6), CaseScore("seq_2", HOSTILE, NAN, NAN, *[NAN] * 6),
    )  # fmt: skip
    videos = (VideoScore("seq_1", 0.375, 149, 0, 0), VideoScore("seq_2", 0.125, 50, 7, 199))
    path, overlays = tmp_path / "report.html", [("seq_1", training_curves(METRICS), "")]
    write_report(path, title="T", evaluation=Evaluation(scores, videos=videos), overlays=overlays, scheme=SCHEME)
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    body = " ".join(" ".join(reader.text[reader.text.index("T", 1) :]).split())
    # mIoU (0.375 + 0.125) / 2; mean IoU over classes (0.1875 + 0.5) / 2.
    for said in (
        "0.250 mIoU per frame, mean over videos",
        "0.344 mean IoU over classes",
        "2 videos, 2 classes",
        "seq_2 0.250 0.125 50 7 empty 199 unlabelled liver 0.250",
        "seq_1 0.625 0.375 149",
        "The scores are based on 199 labelled frames of 2 videos.",
        "199 predicted frames have no reference and are not scored.",
    ):
        assert said in body
    for absent in ("mm", "HD95", "ASSD", "NSD", "Radiological", "scanner", "voxel", "nan"):
        assert absent not in body, absent
    heads = [body[body.index("Class Dice") :].split(" videos liver")[0]]
    assert heads == ["Class Dice mean ± SD median 95 % interval videos, 0 to 1 IoU"]


def test_one_case_and_nothing_optional(tmp_path):
    scores = (CaseScore("a", "liver", NAN, NAN, NAN, NAN, NAN, NAN, 0.0, 0.0),)
    write_report(
        tmp_path / "r.html", title="T", evaluation=Evaluation(scores, reference_empty="one"), overlays=[], scheme=SCHEME
    )
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert "too few cases for an interval" in text
    assert "<b>1</b><span>case, 1 class</span>" in text
    assert "Provenance" not in text
    assert "nan" not in re.sub(r"<style>.*</style>", "", text, flags=re.DOTALL)


def test_bad_input_is_refused(tmp_path):
    with pytest.raises(InputError, match="at least one case"):
        write_report(tmp_path / "r.html", title="T", evaluation=Evaluation(()), overlays=[], scheme=SCHEME)
    with pytest.raises(InputError, match=r"case_a: expected a PNG image, got bytes that begin with b'<svg"):
        write_report(
            tmp_path / "r.html", title="T", evaluation=evaluation(), overlays=[("case_a", b"<svg/>", "")], scheme=SCHEME
        )
    assert not (tmp_path / "r.html").exists()
