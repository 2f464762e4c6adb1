<?php echo "wiki";
