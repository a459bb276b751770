"""``python -m lit_viz``: the command line."""

from lit_viz.cli import main

if __name__ == "__main__":
    main()
