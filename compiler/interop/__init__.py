"""Compiled networks in the libraries that people use already, one library a file.

Nothing is registered anywhere before the file is imported.
"""
