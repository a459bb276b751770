"""``python -m lit_viz``: the command line."""

from lit_viz.cli.main import main

if __name__ == "__main__":
    main()
