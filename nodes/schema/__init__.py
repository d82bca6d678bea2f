"""What several nodes' schemas share: sockets, widgets, inputs, and when a node runs anew."""
