"""A page in headless Chromium, and everything that it requests or logs."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class Visit:
    """A page opened in Chromium, its requests, and its messages on the console."""

    def __init__(self, browser: Any, path: Path, *, width: int = 1280, dark: bool = False, fragment: str = "") -> None:
        view = {"width": width, "height": 844 if width < 500 else 900}
        scheme = "dark" if dark else "light"
        self.page = browser.new_context(viewport=view, color_scheme=scheme, reduced_motion="reduce").new_page()
        self.requests: list[str] = []
        self.messages: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url[:300]))
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.goto(path.as_uri() + fragment)

    def count(self, selector: str) -> int:
        return int(self.page.locator(selector).count())

    def texts(self, selector: str) -> list[str]:
        """The texts of all matching elements, with single spaces."""
        return [" ".join(text.split()) for text in self.page.locator(selector).all_text_contents()]

    def focused(self, what: str) -> Any:
        return self.page.evaluate(f"document.activeElement.{what}")

    def close(self) -> None:
        """Leave the page; it must have requested only itself and its own data, and logged nothing."""
        assert [url for url in self.requests if not url.startswith(("data:", "blob:", "file:///"))] == []
        assert len([url for url in self.requests if url.startswith("file:") and "_data/" not in url]) == 1
        assert self.messages == []
        self.page.context.close()
