"""`make bench`: every benchmark, one after another, each beside its floor."""

from tests.bench import slice_create

slice_create.main()
