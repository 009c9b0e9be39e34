"""Prepare what trials read: packed images, teacher embeddings, anchors, the training subset.

`plan.plan` lists the stores that a sweep needs, with the cost of those that are missing.
`build.prepare_all` builds the missing ones. Trials only open stores. They never run a teacher,
except with `views.teacher=live`.
"""
