"""``python -m spikefront``."""

from spikefront import main

if __name__ == "__main__":
    main()
