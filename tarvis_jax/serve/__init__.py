"""Follows objects for a labeling tool, frame by frame: CVAT's tracker functions, over HTTP and in CVAT's own agent."""
