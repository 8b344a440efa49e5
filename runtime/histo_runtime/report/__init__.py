"""A finished run as a page that people read: one HTML file with pictures, for the screen and for paper.

`histo_runtime.report.again` makes it from a table and its record, `histo_runtime.report.page` puts it together from
sections: one object and one template each.
"""
