"""What the default demo is asked to give: the README's column and the floors of its test, from one place."""

RETAINED = 0.95  # of the teacher's accuracy
SPEEDUP = 5.0  # over the fp32 teacher
SMALLER = 10.0  # than the teacher's ONNX file
BUILD_S = 360.0
AGAIN_S = 15.0  # the same plan from the store
HELP_CPU_S = 0.15
PLAN_CPU_S = 0.6
