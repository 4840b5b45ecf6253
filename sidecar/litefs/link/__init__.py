"""What the filesystem process and the node process say to each other.

Here: message types, the framing of the socket, and the settings each process is started with.
Not here: anything that acts on a message (filesystem/ and node/ do), and no file access.
"""
