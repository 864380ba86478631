"""The far side: shipped to the worker as text or code objects, never imported by the near side.  Python 2.7 syntax."""
