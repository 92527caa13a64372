"""What pretrained video encoders are used for."""
