"""What a reader of report.html sees."""

from html.parser import HTMLParser


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and the text of its cells, headings and attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.texts += [value or "" for _, value in attributes]

    def handle_data(self, data):
        if self.lasttag not in ("script", "style"):
            self.texts.append(data.strip())
