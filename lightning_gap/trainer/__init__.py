"""Facts about a Trainer, by topic. Private: nothing here is interface.

`_private` alone touches what Lightning calls private.
"""
