"""A search over HTTP, and the page that uses it: loopback by default, with nothing from or to other machines."""
