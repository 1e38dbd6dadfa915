"""Reports: what the events of a recording or a camera add up to, as a page and as pictures."""
