"""One page about a run or several, and a view of a run in the terminal.

In reading order:

    page          writes the HTML page; the front door, `rlif.report`
    analysis      computes the numbers: separation, calibration, accuracy, collapse, drift
    verdict       says in one sentence what became of a run
    sections      chooses the figures of each section
    figures       draws figures as SVG for the page, and as .svg and .png files
    completions   selects the sampled completions that the page holds
    watch         shows a run in the terminal while it goes on
    assets/       template, style and script of the page

Everything is read from run folders; nothing here trains or samples. Training, comparison and the command line may
import this folder. A new figure is a function in `figures` and an entry in `sections`. A new number goes into
`analysis`, with its formula in that module's docstring.
"""
