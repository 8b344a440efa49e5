"""The documentation: what its pages say is held against the source, and made into a site."""
