"""Writes a page about one run or several, and shows a run in the terminal.

In reading order:

    page          writes the HTML page; the front door, `rlif.report`
    analysis      computes the numbers: separation, calibration, accuracy, collapse, drift
    verdict       analyses each run once for all parts of the page, and describes it in one sentence
    sections      the table of sections; each chooses its figures
    figures       draws figures as SVG for the page, and as .svg and .png files
    completions   selects the sampled completions that the page holds
    watch         shows a run in the terminal while it trains
    assets/       template, style and script of the page

Everything is read from run folders; nothing here trains or samples. Training, comparison and cli may import this
folder. To add a figure, write a function in `figures` and use it in `sections`. A number goes into `analysis`.
"""
