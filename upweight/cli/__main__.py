"""`python -m upweight.cli` is the command `upweight`."""

from upweight.cli import main

if __name__ == "__main__":
    main()
