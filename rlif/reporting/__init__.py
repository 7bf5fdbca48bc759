"""Writes a page about one run or several, and shows a run in the terminal.

In reading order:

    page          writes the HTML page; the front door, `rlif.report`
    analysis      computes the numbers: separation, calibration, accuracy, collapse, drift
    verdict       analyses each run once for all parts of the page, and describes it in one sentence
    sections      the table of sections; each chooses its figures
    figures       describes figures as data for the page, and draws them as .svg and .png files
    completions   selects the sampled completions that the page holds
    watch         shows runs in the terminal while they train
    assets/       template, style and scripts of the page; uPlot, which draws its figures

Everything is read from run folders; nothing here trains or samples. Training, comparison and cli may import this
folder. To add a figure, write a function in `figures` and use it in `sections`. A number goes into `analysis`.
"""
