"""Search over HTTP and the web page that uses it; by default on the loopback interface only."""
