"""`python -m tests.stored`: write the stored forms that are missing."""

from tests.stored.form import write_missing

for path in write_missing():
    print(path)
