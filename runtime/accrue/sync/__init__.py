"""What a fleet shares: contributions, their merge, who may say what, and MQTT to carry it."""
