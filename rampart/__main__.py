"""python -m rampart: the `rampart` command."""

from rampart.main import run

if __name__ == "__main__":
    run()
