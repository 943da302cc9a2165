"""What the HTML pages share: templates, SVG, and how numbers are written."""
