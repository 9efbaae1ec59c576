"""Campaigns that look for lost rows and lost events while things fail."""
