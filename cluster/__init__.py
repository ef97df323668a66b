"""Clusters on any cloud: what Ray's launcher is given, and what runs on their machines beside Ray."""
