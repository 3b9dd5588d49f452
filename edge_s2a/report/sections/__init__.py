"""The sections of the page, one subject per module.

A module has `section`, which returns HTML, and where the subject has figures `pictures`, which says what they are; the
page asks for them in the order in which it shows them.
"""
