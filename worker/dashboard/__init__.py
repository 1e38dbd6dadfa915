"""The web page for operators: Redis in, HTML, JSON and server-sent events out.

Reads Redis and changes nothing in it; knows no worker, no camera and no video. One thread reads the
streams (``feed``) and keeps what is known of each camera (``cameras``); the event loop holds the
newest state and its viewers (``hub``), and answers requests (``routes``).
"""
