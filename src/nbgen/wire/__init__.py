"""What goes over the wire: messages, bodies and errors, for both ends."""
