"""`python -m limla`: the `limla` executable, for torchrun and for environments without scripts on the path."""

from limla.cli import main

if __name__ == "__main__":
    main()
