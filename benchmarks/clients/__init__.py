"""The library under measurement, with the methods that `ours.Client` says; `ours_fast` stands on the extra `fast`."""
