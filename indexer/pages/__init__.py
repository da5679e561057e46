"""HTML pages: templates, charts and the style sheet that all pages share."""
