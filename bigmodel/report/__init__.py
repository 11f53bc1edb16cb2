"""The record of a run, and its renderings: text, one HTML page, a notebook. Pure functions of the record."""

from bigmodel.report.record import RECORD_VERSION, Record

__all__ = ["RECORD_VERSION", "Record"]
