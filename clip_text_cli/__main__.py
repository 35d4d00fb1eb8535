"""``python -m clip_text_cli`` is ``clip-text``."""

from clip_text_cli.main import main

if __name__ == "__main__":
    main()
