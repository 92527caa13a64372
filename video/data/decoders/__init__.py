"""Back-ends that turn a video file and frame numbers into pixels. All give the same frames and the same pixels."""
