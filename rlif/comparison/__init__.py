"""Recipes and runs compared over seeds, as one table.

In reading order:

    comparison     gathers the runs and builds the table; the front door, `rlif.compare`
    sweep          runs recipes x seeds: missing runs are made, unfinished ones resumed
    summary        reduces a run folder to a few kilobytes, a `RunSummary`
    summary_file   writes summaries to one JSON file and reads it again
    checks         refuses runs that cannot be compared; notes what differs
    outcomes       computes start, best, end and change of each run and over seeds
    table          renders the rows as terminal text, markdown, CSV and JSON
    leaderboard    sorts runs into boards, one per base and task; refuses different settings on one
    leaderboard_page  renders the boards with their claims as markdown and JSON

Only cli may import this folder. To add a column, add a field to `outcomes.MethodResult` and a cell to `table.cells`. A
condition that methods should share is a key in `checks.CONDITIONS`.
"""
