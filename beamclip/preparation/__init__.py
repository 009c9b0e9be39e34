"""Prepare what trials read: packed images, teacher embeddings, anchors, the training subset.

`plan.plan` says which stores exist and what the missing ones cost; `build.prepare_all` makes them.
Trials only open stores and never run a teacher, except with `views.teacher=live`.
"""
