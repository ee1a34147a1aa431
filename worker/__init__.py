"""The conversion tier: takes jobs from the queue, converts with ffmpeg, reports to the API.

It has no database, no Flask and no signing secret.
"""
