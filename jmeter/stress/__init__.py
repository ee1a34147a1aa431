"""Runs the plans beside this folder without JMeter's GUI and writes a report: see jmeter/README.md."""
