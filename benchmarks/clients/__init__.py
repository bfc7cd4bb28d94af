"""The library as the harness calls it: `ours` on the default transport, `ours_fast` on the extra `fast`."""
