"""Erase users (the right to be forgotten) from every place that the project knows of.

artifacts   the files of an artifact folder, and its ledger
results     folders and files that were made from it: experiments, judged explanations
stored      every version of the index, and the stored users
run         all of it, by a plan that is written first and removed last
report      where was looked, what was found, what remains and until when
"""
