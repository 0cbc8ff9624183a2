"""Hyperparameter searches side by side: same data, same space, same two cores, same clock.

`python -m bench.race --help` from the folder of the repository. Reading order: `exported`,
`network` and `lines` are what contestants share; `ours`, `plain`, `expert`, `with_ray`,
`with_neuralforecast` and `with_keras` are the contestants, each a script of its own; `contestants`
names them; `runner` runs one race; `store` keeps it; `progress`, `tables` and `picture` say what
came of all of them; `throughput`, `loops` and `landscape` are measurements beside the race.
"""
