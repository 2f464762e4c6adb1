<?php echo "posts of " . getenv("APP_ENV") . "\n";
