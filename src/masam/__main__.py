"""``python -m masam`` is ``masam``."""

from masam.cli import run

if __name__ == "__main__":
    run()
