"""The record of each call and job, of which log lines, metrics, the status page and `connectrio ps` are views."""
