"""How sharp should the teacher's ranking be, and how sharp the student's?

CSM compares two softmaxes over the text anchors, one of the teacher and one of the student. The
BeamCLIP paper does not say at which temperatures; CLIP itself was trained at 0.01. A low τ_T passes
on little more than the best class, a high τ_T the whole ranking. τ_S decides how much the student's
similarities to the anchors must differ to match the teacher's ranking. Changing them costs no
teacher pass.

    python sweeps/csm_temp.py                 the embedded demo: no network, no GPU, minutes
    python sweeps/csm_temp.py --preset cifar10 --data DIR
    ray job submit --working-dir . -- python sweeps/csm_temp.py
"""

from beamclip import Sweep, choice, sweep_main

SWEEP = Sweep(
    name="csm_temp",
    question="How do the temperatures of teacher and student change what the student learns?",
    space={
        "objective.teacher_temperature": choice(0.01, 0.05, 0.2),
        "objective.student_temperature": choice(0.02, 0.1),
    },
)

if __name__ == "__main__":
    sweep_main(SWEEP)
