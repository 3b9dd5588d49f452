"""Makes a page about a run, with figures, from the files of its folder. Needs the extra `report`.

`write.py` is the recipe: `record.py` reads the files, a module in `sections/` per subject says what there is to show,
`drawing.py` draws its figures and `page.py` assembles the page. `tensorboard.py` writes TensorBoard's events instead.
"""
