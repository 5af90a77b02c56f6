"""The files of other tools, one module for each: ``write(path, rows)`` and ``read(path)``.

``docs/formats.md`` has what each of them loses, how large it is, and who reads it.
"""
