"""Conversations with a node, over whatever they come: lines in, calls run, answers out. Nothing here knows of sockets."""
